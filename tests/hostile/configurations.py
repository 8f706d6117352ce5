"""Settings of model configurations (config.json) that would run code, or are none; and settings without effect."""

# By field of a config.json, the value, and what is said.
MODELS = [
    ({"_attn_implementation": "kernels-community/flash-attn"}, "code from the hub"),
    ({"attn_implementation": "somebody/attention:forward"}, "code from the hub"),
    (
        {"model_type": "mine", "auto_map": {"AutoConfig": "evil.Config", "AutoModel": "evil.Model"}},
        "the configuration of",
    ),
    ({"model_type": "no_such_model"}, "the configuration of"),
    ({"hidden_size": "a"}, "cannot be read: Validation error for field 'hidden_size': TypeError: Field 'hidden_size'"),
]

# Arguments of a command, of which one changes nothing, and what the refusal says.
IDLE = [
    (("compare", "--set", "training.learning_rate=3e-4"), "METHOD:training.learning_rate=3e-4"),
    (("compare", "--set", "training.epochs=2"), "--recipe-training"),
    (("compare", "--set", "kd:training.max_length=16"), "--max-length"),
    (("compare", "--set", "pdk:kd.temperature=2"), "unknown method 'pdk'"),
    (("compare", "--set", "kd:crd.weight=2"), "kd has no term 'crd'"),
    (("compare", "--methods", "none", "--set", "kd.temperature=2"), "unknown term 'kd'"),
    (("compare", "--set", "student=4x312"), "--student"),
    (("compare", "--set", "title=mine"), "no effect"),
    (("compare", "--set", "general.training.epochs=1"), "kdzoo pretrain"),
    (("compare", "--augment-model", "x"), "--augment"),
    (("compare", "--glove", "x"), "--augment"),
    (("compare", "--cache-limit", "0", "--cache-precision", "fp16"), "--cache-limit 0"),
    (("compare", "--cache-limit", "0", "--cache-folder", "x"), "--cache-limit 0"),
    (("compare", "--no-finetune-teacher", "--teacher-epochs", "7"), "--teacher-epochs"),
    (("compare", "--ray-address", "auto"), "--launcher ray"),
    (("check", "kd", "--set", "training.learning_rate=3e-4"), "METHOD:training"),
    (("bench", "throughput", "--methods", "kd", "--set", "kd:training.epochs=2"), "no effect"),
    (("distill", "--task", "sst2", "--teacher", "x", "--method", "kd", "--cache-precision", "fp16"), "--cache-folder"),
    (("distill", "--task", "sst2", "--teacher", "x", "--method", "kd", "--cache-limit", "2"), "--cache-folder"),
    (("distill", "--task", "sst2", "--teacher", "x", "--method", "kd", "--augment-model", "x"), "--augment"),
    (("distill", "--task", "sst2", "--teacher", "x", "--method", "kd", "--set", "student=4x312"), "--student"),
    (
        ("distill", "--task", "sst2", "--teacher", "x", "--method", "kd", "--set", "pkd:kd.temperature=2"),
        "method 'pkd'",
    ),
    (("pretrain", "--text", "x", "--teacher", "x", "--steps", "5", "--epochs", "2"), "--steps"),
    (("pretrain", "--text", "x", "--teacher", "x", "--mlm-probability", "0.2"), "mlm"),
]
