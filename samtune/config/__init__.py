"""The YAML: one tree of located values, what one trial is, and what is searched. Imports neither torch nor ray.

`SearchSpace` (in `space`) is what a file becomes, `TrialSpec` (in `trial`) what a configuration of it becomes. Others
may also use the config classes of the sections (`data`, `model`, `method`, `training`, …), what may be searched
(`distributions`, `searched`) and `yaml_source`. On the way from text to space: `yaml_source` reads `located` values,
`overrides` edits them, `written` parses them to a `template`, `validate` and `search_rules` check it, and `resolve`
makes trials of its configurations.
"""
