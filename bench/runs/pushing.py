"""A trained model's folder uploaded to the Hugging Face hub: what loads it, and its card; no record, no checkpoint."""

from __future__ import annotations

from pathlib import Path

from kdzoo.errors import DistillationFailure, KdzooError
from kdzoo.tasks.source_target import FOLDER

# Of the model's folder alone: records and configurations hold this machine's paths, checkpoints the optimizer.
PUSHED = ("README.md", "config.json", "generation_config.json", "adapter_config.json", "*.safetensors", "*.bin",
          "*.safetensors.index.json", "tokenizer*", "vocab*", "merges.txt", "special_tokens_map.json",
          "added_tokens.json", "spiece.model", "sentencepiece*", "*.onnx", "*.onnx.data", f"{FOLDER}/*")  # fmt: skip
LEFT = ("objective.safetensors",)  # a training's own


def check_push(repository: str) -> None:
    """Refuse an upload that cannot work, before anything is trained for it.

    Args:
        repository: ``USER/NAME`` on the hub.

    Raises:
        KdzooError: for a name that the hub would not take, offline, or without a token.
    """
    from huggingface_hub import constants, get_token
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        said = str(error).rstrip(".")
        raise KdzooError(
            f"--push-to-hub is {repository!r}, which names no repository: {said}; give USER/NAME"
        ) from None
    if repository.count("/") != 1:
        raise KdzooError(f"--push-to-hub is {repository!r}; give whose it is, too: USER/{repository}")
    if constants.HF_HUB_OFFLINE:
        raise KdzooError("--push-to-hub reaches the hub, and HF_HUB_OFFLINE is set; unset it, or leave the option out")
    if get_token() is None:
        raise KdzooError("--push-to-hub needs a token of the hub; `hf auth login` keeps one, or HF_TOKEN holds it")


def push(folder: Path, repository: str, *more: Path) -> str:
    """Upload a model's folder, into a repository that is made where there is none.

    Args:
        folder: the model's.
        repository: ``USER/NAME``.
        more: files from elsewhere to go with it.

    Returns:
        Where it is.

    Raises:
        KdzooError: for a folder that holds no model.
        DistillationFailure: when the hub refuses, or cannot be reached.
    """
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.utils import filter_repo_objects  # type: ignore[attr-defined]

    check_push(repository)
    paths = [path for place in (folder, folder / FOLDER) for path in place.glob("*") if path.is_file()]
    names = sorted(path.relative_to(folder).as_posix() for path in paths)
    taken = [*filter_repo_objects(names, allow_patterns=[*PUSHED], ignore_patterns=[*LEFT])]
    if "config.json" not in taken and "adapter_config.json" not in taken:
        raise KdzooError(f"{folder} holds no model to upload; name the folder that distill, finetune or compare wrote")
    found = {name: folder / name for name in taken} | {path.name: path for path in more}
    api = HfApi()
    try:
        api.create_repo(repository, exist_ok=True)
        api.create_commit(
            repository,
            [CommitOperationAdd(path_in_repo=name, path_or_fileobj=str(path)) for name, path in found.items()],
            commit_message="A model by kdzoo",
        )
    except Exception as error:  # of the hub, of the network, or of a file: the model is safe
        said = " ".join(str(getattr(error, "server_message", None) or error).split())
        raise DistillationFailure(
            f"the model is in {folder} and was not uploaded to {repository}: {said}; "
            f"`kdzoo export {folder} --push-to-hub {repository}` tries again"
        ) from None
    return f"{api.endpoint}/{repository}"
