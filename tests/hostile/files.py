"""Files that are no recipes, and texts that are no records: a name, the bytes, and what is said of them."""

DEEP = 5000
BOMB = "\n".join(
    ["a: &a [x, x, x, x, x, x, x, x, x]"]
    + [f"{one}: &{one} [{', '.join([f'*{other}'] * 9)}]" for other, one in zip("abcdefgh", "bcdefghi", strict=True)]
)
MERGES = "\n".join(
    ["a: &a {k: 1}"]
    + [
        f"{one}: &{one} {{<<: [{', '.join([f'*{other}'] * 9)}]}}"
        for other, one in zip("abcdefgh", "bcdefghi", strict=True)
    ]
)

RECIPES = [
    ("deep", b"[" * DEEP, "not YAML"),
    ("deep mapping", b"{a: " * DEEP, "not YAML"),
    ("bomb", BOMB.encode(), "aliases"),
    ("merges", MERGES.encode(), "aliases"),
    ("own alias", b"a: &a [*a]", "aliases"),
    ("digits", b"name: " + b"9" * 5000, "not YAML"),
    ("surrogate", b'name: "\\ud800"\nstages: [{terms: [{loss: kd}]}]', "cannot be called"),
    ("no UTF-8", b"\xff\xfe", "not YAML"),
    ("NUL", b"name: a\0b", "not YAML"),
    ("empty", b"", "a recipe is a mapping"),
    ("long", b"# " + b"x" * 1_100_000, "longer than"),
    ("object", b"!!python/object/apply:os.system ['true']", "not YAML"),
    ("infinite", b"name: x\nstages: [{terms: [{loss: kd}], fraction: .inf}]", "finite"),
    ("weight", b"name: x\nstages: [{terms: [{loss: kd, weight: " + b"9" * 400 + b"}]}]", "weight"),
    ("option", b"name: x\nstages: [{terms: [{loss: kd, temperature: " + b"9" * 400 + b"}]}]", "temperature"),
    ("number key", b"1: 2", "unknown key"),
    ("term's name", b"name: x\nstages: [{terms: [{loss: kd, name: '../x'}]}]", "cannot be called"),
]

RECORDS = [
    ("deep", b"[" * DEEP),
    ("deep within", b'{"task": ' + b"[" * 60 + b"]" * 60 + b"}"),
    ("digits", b'{"seed": ' + b"9" * 5000 + b"}"),
    ("no UTF-8", b"\xff\xfe"),
    ("surrogate", b'{"task": "sst2", "method": "kd", "seed": 0, "error": "\\ud800"}'),
    ("number", b"1"),
    ("text", b'"record"'),
    ("null", b"null"),
    ("cut", b'{"task": "ss'),
]

# Fields of a whole record replaced: fits no table, no plot or no page.
FIELDS = [
    ("task", "../sst2"),
    ("task", "=1+1"),
    ("method", "[/]"),
    ("method", "$x$"),
    ("method", "a" * 300),
    ("seed", -1),
    ("seed", True),
    ("seed", 10**400),
    ("score", 1e300),
    ("score", "74"),
    ("score", float("nan")),
    ("samples_per_second", 1e308),
    ("parameters", -1),
    ("parameters", 10**400),
    ("curve", [{}]),
    ("curve", [{"step": 1, "seconds": "a", "score": 2.0}]),
    ("curve", [{"step": 1, "seconds": 1.0, "score": float("inf")}]),
    ("history", [{"loss": "low", "step": 1}]),
    ("history", [{"loss": None, "step": 1}]),
    ("history", [{"loss/kd": 1.0}]),
    ("history", [{"loss": float("nan"), "step": 1}]),
    ("inference", {"a": {"latency_ms": 1.0}}),
    ("inference", {"1": {"latency_ms": "fast"}}),
    ("step_seconds", {"forward": "fast"}),
    ("metrics", {"accuracy": "high"}),
    ("predictions", {"validation": ["yes"] * 32}),
    ("predictions", {"validation": [0, [1]]}),
    ("predictions", {"validation": [None] * 32}),
    ("versions", {"torch": 2}),
    ("guess", {"score": "half"}),
    ("guess", {"score": {}}),
    ("headline", []),
    ("started", 5),
]
