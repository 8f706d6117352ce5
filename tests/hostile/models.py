"""Files of a trained student's folder that are none, or say something else than its weights."""

from __future__ import annotations

DEEP = "[" * 100_000

# The file; what is written into it as it is, or by field of its JSON; and what is said by `kdzoo predict`.
STUDENTS = [
    ("tokenizer.json", "{}", "no tokenizer at"),
    ("tokenizer.json", "[]", "no tokenizer at"),
    ("tokenizer.json", '{"version": "1.0"', "no tokenizer at"),
    ("tokenizer_config.json", "[]", "no tokenizer at"),
    ("tokenizer_config.json", {"model_max_length": 0}, "model_max_length=0"),
    ("tokenizer_config.json", {"model_max_length": -5}, "model_max_length=-5"),
    ("tokenizer_config.json", {"model_max_length": "long"}, "model_max_length='long'"),
    ("config.json", "[]", "the configuration of"),
    ("config.json", DEEP, "the configuration of"),
    ("config.json", {"id2label": ["a", "b", "c"]}, "the configuration of"),
    ("config.json", {"id2label": {"0": "a", "1": "b", "2": "c", "7": "d"}}, "each needs a name of its own"),
    ("config.json", {"id2label": {"0": "a", "1": "a", "2": "b", "3": "c"}}, "each needs a name of its own"),
    ("config.json", {"id2label": {"0": "a", "1": None, "2": 3, "3": "b"}}, "each needs a name of its own"),
    ("config.json", {"problem_type": "nope"}, "problem_type='nope'"),
    ("config.json", {"architectures": 5}, "holds a 5"),
    ("config.json", {"num_hidden_layers": 0}, "holds weights of layers that its config.json has no place for"),
    ("config.json", {"num_hidden_layers": 10**9}, "is of 1000000000 layers"),
    ("config.json", {"vocab_size": 10**12}, "GB of memory"),
    ("config.json", {"hidden_size": "16"}, "the configuration of"),
    ("config.json", {"num_attention_heads": 0}, "cannot load the model"),
    ("config.json", {"hidden_act": "nope"}, "cannot load the model"),
    ("config.json", {"pad_token_id": 10**6}, "cannot load the model"),
    ("model.safetensors", "xx", "truncated or damaged"),
    ("record.json", "[]", "is not a record"),
]

# What a table's text says that cannot be written, and one that is no number of times.
SQUAD = {
    "half a letter": ({"question": "\ud800?"}, "half of a letter"),
    "no truth": ({"is_impossible": "no"}, "is_impossible is 'no'; it is true or false"),
    "no number": ({"occurrences": "x"}, "occurrences is 'x'; it is a whole number"),
    "no end": ({"occurrences": float("inf")}, "occurrences is inf; it is a whole number"),
    "no text": ({"question": 5}, "question '1-0': question is 5; give a text"),
    "no id": ({"id": ["x"]}, "not in SQuAD's form"),
}
