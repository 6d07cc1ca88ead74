"""`nesf compare`: models trained on equal terms, scored alike, and shown side by side.

The way through, in the order in which a call goes; what is imported goes the other way, and only
`command` knows all of it:

1. What is compared. `read_plan` makes a `plan.Plan` of a YAML file: one `Comparison`, or several
   parts, each of `options` (data, contestants, scoring, growth). `kinds` refuses a model that
   cannot take part. A comparison is of one of two kinds: crystals are given back, or a property
   (`properties`) is predicted.
2. Work. `command.compare` locks the `folder` and runs a `contest.Contest` for each comparison,
   model by model: `trainings` runs `nesf fit`, then `reconstructing` or `predicting` has the test
   crystals measured and scores what came out. Every model becomes a line of `results.jsonl`
   (`lines`), a failed one too. Trainings and measurements are processes of their own, which
   `children` watches.
3. `measuring`, in such a process (`child` reads its job and writes its report): one model and the
   test crystals, timed; `reconstruction` and `prediction` are what a job may ask for.
4. `showing`, after every model, of the plan and its lines alone: `summary` gathers the seeds of a
   model as an `Outcome`; `tables` and `cost_tables`, `plots` and `curves` are made of outcomes;
   `bodies` says what stands on the page of which kind, out of `sections`, `fairness` and `cases`;
   `publish` writes all of it, as Markdown, LaTeX and HTML (`writing`, `page`).
"""
