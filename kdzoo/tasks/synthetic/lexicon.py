"""The words of the synthetic grammar: a closed vocabulary of common English words, grouped by what they mean."""

from __future__ import annotations

# Each row: a kind and its members. A member entails the kind; two members of one kind exclude each other.
PEOPLE = {
    "artist": ("painter", "singer", "dancer", "poet", "actor", "sculptor"),
    "worker": ("farmer", "builder", "driver", "cook", "baker", "miner"),
    "scholar": ("teacher", "student", "doctor", "writer", "lawyer", "chemist"),
    "leader": ("king", "captain", "mayor", "judge", "general", "bishop"),
}
THINGS = {
    "animal": ("dog", "cat", "horse", "rabbit", "sheep", "goat"),
    "vehicle": ("car", "truck", "bus", "bicycle", "boat", "wagon"),
    "fruit": ("apple", "banana", "orange", "pear", "peach", "lemon"),
    "instrument": ("guitar", "piano", "violin", "drum", "flute", "trumpet"),
    "tool": ("hammer", "knife", "ladder", "axe", "shovel", "rope"),
    "garment": ("coat", "shirt", "hat", "dress", "jacket", "scarf"),
}
# The second genre of MNLI's mismatched split: other people, other things.
OTHER_PEOPLE = {
    "player": ("goalkeeper", "boxer", "runner", "swimmer", "skier", "golfer"),
    "official": ("minister", "senator", "officer", "clerk", "banker", "inspector"),
}
OTHER_THINGS = {
    "weapon": ("sword", "rifle", "spear", "bow", "pistol", "cannon"),
    "document": ("letter", "book", "map", "contract", "report", "diary"),
}
# Each row: two words of one meaning.
VERBS = (
    ("bought", "purchased"),
    ("fixed", "repaired"),
    ("found", "discovered"),
    ("carried", "transported"),
    ("buried", "concealed"),
    ("watched", "observed"),
    ("cleaned", "washed"),
    ("grabbed", "seized"),
    ("wanted", "desired"),
    ("presented", "displayed"),
    ("crushed", "smashed"),
    ("touched", "handled"),
)
SOCIAL_VERBS = (
    ("helped", "assisted"),
    ("called", "phoned"),
    ("followed", "chased"),
    ("thanked", "praised"),
    ("feared", "dreaded"),
    ("fooled", "tricked"),
    ("trained", "coached"),
    ("rescued", "saved"),
    ("hired", "employed"),
    ("blamed", "accused"),
)
ADJECTIVES = (
    ("big", "large"),
    ("small", "little"),
    ("smart", "clever"),
    ("rich", "wealthy"),
    ("quiet", "silent"),
    ("strange", "odd"),
    ("angry", "furious"),
    ("pretty", "beautiful"),
    ("old", "ancient"),
    ("dirty", "filthy"),
)
PLACES = (
    ("house", "home"),
    ("shop", "store"),
    ("garden", "yard"),
    ("forest", "woods"),
    ("street", "road"),
    ("harbor", "port"),
    ("school", "academy"),
    ("hotel", "inn"),
    ("valley", "canyon"),
    ("market", "bazaar"),
)
TIMES = (
    ("today", "this day"),
    ("at dawn", "at sunrise"),
    ("at dusk", "at sunset"),
    ("in autumn", "in fall"),
    ("last week", "the week before"),
    ("on the weekend", "on saturday"),
)
MANNERS = (
    ("quickly", "rapidly"),
    ("secretly", "covertly"),
    ("carefully", "cautiously"),
    ("gladly", "happily"),
    ("finally", "eventually"),
    ("suddenly", "abruptly"),
)

# Sentiment.
ASPECTS = (
    "film", "plot", "story", "acting", "music", "script", "ending", "cast", "dialogue", "pacing",
    "camera work", "opening", "comedy", "drama", "director", "romance",
)  # fmt: skip
POSITIVE = (
    "brilliant", "moving", "funny", "charming", "clever", "fresh", "gripping", "lovely", "superb", "warm",
    "honest", "witty",
)  # fmt: skip
NEGATIVE = (
    "boring", "dull", "clumsy", "stupid", "weak", "tedious", "hollow", "awful", "lazy", "bland",
    "shallow", "messy",
)  # fmt: skip
STRONG = ("very", "truly", "deeply", "utterly", "extremely")
MILD = ("slightly", "somewhat", "rather", "mildly", "fairly")
COPULAS = ("is", "was", "seems", "feels", "looks")
NEGATORS = ("not", "never", "hardly")
AFFIRMERS = ("always", "clearly", "surely")
OPENERS = (
    "to my surprise", "in the second half", "as my friends said", "for a low budget", "on the big screen",
    "at this point", "like the book", "from the first scene",
)  # fmt: skip

# Agreement.
NOUNS_BOTH = tuple((noun, noun + "s") for kind in PEOPLE.values() for noun in kind if noun != "sheep")
PLAIN_VERBS = (
    ("laughs", "laugh"), ("sleeps", "sleep"), ("waits", "wait"), ("sings", "sing"), ("works", "work"),
    ("smiles", "smile"), ("dances", "dance"), ("travels", "travel"),
)  # fmt: skip
OBJECT_VERBS = (
    ("likes", "like"), ("knows", "know"), ("sees", "see"), ("hates", "hate"), ("needs", "need"), ("meets", "meet"),
)  # fmt: skip
PREPOSITIONS = ("near", "behind", "beside", "with")

# Questions people ask.
SKILLS = (
    ("learn", "study"), ("teach", "explain"), ("practice", "train"), ("improve", "better"), ("forget", "lose"),
    ("master", "perfect"),
)  # fmt: skip
SUBJECTS = (
    "french", "chess", "physics", "cooking", "history", "spanish", "biology", "writing", "music", "poetry",
    "algebra", "swimming", "german", "drawing",
)  # fmt: skip
PURPOSES = (
    ("for an exam", "for a test"), ("at work", "on the job"), ("in one month", "within a month"),
    ("without money", "for free"), ("as an adult", "as a grown person"), ("with my kids", "with my children"),
)  # fmt: skip
