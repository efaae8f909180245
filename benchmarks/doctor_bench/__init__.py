"""The doctor, with a score: faults put into healthy set-ups, what the doctor says of each, and what each really costs.

`make doctor-bench` runs it. A *set-up* is everything a Trainer is made of (`case`); a *fault* changes one thing in it
(`faults`); `setups` lists what is run, `measure` runs one, `score` counts and `report` writes.
"""
