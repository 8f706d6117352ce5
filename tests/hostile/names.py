"""Names of recipes, methods and tasks: what is none, and what is one."""

REFUSED = [
    "",
    " ",
    ".",
    "..",
    ".hidden",
    "../outside",
    "a/b",
    "/etc/passwd",
    "a\\b",
    "C:name",
    "~root",
    "-rf",
    "--out",
    "a b",
    "a\nb",
    "a\tb",
    "name\n",
    "a\0b",
    "\x1b[31mred\x1b[0m",
    "\x07",
    "[/]",
    "[bold]loud[/bold]",
    "$x^2$",
    "$HOME",
    "$(touch x)",
    "`touch x`",
    "a;b",
    "a|b",
    "a&b",
    "a%b",
    "a#b",
    "a*b",
    "a?b",
    'a"b',
    "a'b",
    "a,b",
    "a:b",
    "<script>",
    "&lt;",
    "{x}",
    "\\input{x}",
    "=1+1",
    "+1",
    "@SUM(A1)",
    "ünïcode",
    "\u202egnp",  # turns the direction of writing
    "\u200b",  # has no width
    "\ud800",  # one half of a letter
    "a" * 65,
    "a" * 300,
]

# Of methods alone: a task may be called so.
REFUSED_METHODS = ["teacher", "Teacher", "all"]

FINE = ["kd", "KD", "my_recipe", "my-recipe", "v1.2", "0.5-kd", "_x", "a" * 64]


def shown(case: object) -> str:
    """A case as the name of its test."""
    return ascii(case)[:40]
