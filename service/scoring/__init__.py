"""Files of rows scored through a model: `python -m service score`.

Owns the order of a run: the input's rows are cut into parts, each part becomes one output file that appears whole or
not at all, and a run that was killed goes on with the parts that are missing. Knows nothing of HTTP.

`plan` what a run is; `storage` folders here and in object stores; `lines` and `readers` rows of files; `fields` which
columns are the model's input; `answers` which columns are its answer; `writers` files of answers; `part` one part
scored; `progress` how far a run is; `cluster` the parts on Ray.
"""
