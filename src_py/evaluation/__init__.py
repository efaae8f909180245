"""How good predictions are: metrics, baselines to beat, tables and plots, blending."""
