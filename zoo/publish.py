"""Publishing a world model on the Hugging Face Hub: weights, card, evaluation and bundle, in one commit."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jepakit.hub import BUNDLE_FOLDER
from jepakit.planning.evaluation.files import write_json
from jepakit.results import read_evaluation, read_training
from jepakit.zoo.base import WorldModel
from jepakit.zoo.card import last_probes, model_card
from jepakit.zoo.files import fingerprint
from jepakit.zoo.weights import CONFIG_FILE, TRAINING_FILE, WEIGHTS_FILE, build_model, read_checkpoint

EVALUATION_FILE = "evaluation.json"
CARD_FILE = "README.md"


@dataclass(frozen=True, kw_only=True)
class Publication:
    """What was, or would be, published: the files with their sizes in bytes, and the commit's address."""

    repository: str
    files: dict[str, int]
    url: str | None


def publish(
    weights: str | Path,
    repository: str,
    *,
    bundle: Path | None = None,
    private: bool = False,
    revision: str | None = None,
    licence: str = "apache-2.0",
    dry_run: Path | None = None,
) -> Publication:
    """Publish the weights in a folder as ``repository`` (org/name), which is made if it is not there.

    With them go their card and, if there are any, the training's record, the ``evaluation`` and ``probes`` beside the
    folder if these very weights were measured, and an exported ``bundle``; what an earlier commit had of these and
    this one has not is deleted. All files appear in one commit or not at all, and without a change there is no commit.
    ``revision`` is a branch, made if needed. With ``dry_run``, a folder that must not exist, everything is written
    there and nothing is sent.

    Raises ``ValueError`` for weights that do not load, are no world model's, or whose predictor was never trained, and
    for a bundle of other weights; huggingface_hub's own errors where the Hub refuses.
    """
    check_place(dry_run)
    folder = Path(weights).expanduser().absolute()
    checkpoint = read_checkpoint(folder)
    model = build_model(checkpoint)  # what does not load here must not be published
    if not isinstance(model, WorldModel):
        raise ValueError(
            f"{checkpoint.source}: found a {checkpoint.name}, expected a world model, which cards are about; "
            "`hf upload` sends any folder, and what is trained on latents loads from the Hub as from a folder"
        )
    if model.encoder_alone:
        raise ValueError(
            f"{checkpoint.source}: found a {checkpoint.name} whose training ended with its encoder's steps, expected a "
            "trained predictor; go on training it with --ckpt_path last, or for more trainer.max_steps"
        )
    mine = fingerprint(model)
    with tempfile.TemporaryDirectory() as temporary:
        staged = Path(temporary) / "repository"
        staged.mkdir()
        for name in (CONFIG_FILE, WEIGHTS_FILE):
            shutil.copyfile(folder / name, staged / name)
        training, evaluation = folder / TRAINING_FILE, folder.parent / "evaluation" / EVALUATION_FILE
        facts = {
            "training": read_training(training) if training.is_file() else None,
            "evaluation": _read_own(evaluation, checkpoint.name, mine) if evaluation.is_file() else None,
        }
        for key, name in (("training", TRAINING_FILE), ("evaluation", EVALUATION_FILE)):
            content = facts[key]
            if content is not None:
                write_json(staged / name, content)
        if bundle is not None:
            _copy_bundle(bundle, staged / BUNDLE_FOLDER, mine)
        card = model_card(
            checkpoint,
            repository=repository,
            licence=licence,
            probes=last_probes(folder.parent / "probes", mine),
            bundle=bundle is not None,
            **facts,
        )
        (staged / CARD_FILE).write_text(card)
        files = {
            path.relative_to(staged).as_posix(): path.stat().st_size
            for path in sorted(staged.rglob("*"))
            if path.is_file()
        }
        if dry_run is not None:
            shutil.copytree(staged, dry_run)
            return Publication(repository=repository, files=files, url=None)
        return Publication(
            repository=repository, files=files, url=_send(staged, repository, private=private, revision=revision)
        )


def check_place(dry_run: Path | None) -> None:
    """Raise ``FileExistsError`` for a folder that is there already."""
    if dry_run is not None and dry_run.exists():
        raise FileExistsError(f"dry_run: {dry_run} exists already; delete it, or choose another folder")


def _copy_bundle(bundle: Path, to: Path, weights: str) -> None:
    """Copy the files of a bundle of these ``weights``, without engines or whatever else lies there."""
    from jepakit.export.bundle import MANIFEST, Bundle

    opened = Bundle.open(bundle)
    found = opened.manifest["model"].get("weights")
    if found != weights:
        raise ValueError(
            f"{bundle / MANIFEST}: model.weights: found {found}, expected those to be published, {weights}; export them"
        )
    to.mkdir()
    for name in (MANIFEST, *opened.manifest["files"]):
        shutil.copyfile(bundle / name, to / name)


def _read_own(file: Path, family: str, weights: str) -> dict[str, Any] | None:
    """Read an evaluation if it is one of these ``weights``."""
    found = read_evaluation(file)
    if found["settings"].get("fingerprint") != weights:
        return None
    if family not in found["policies"]:
        raise ValueError(f"{file}: policies: found {sorted(found['policies'])}, expected {family!r}; evaluate again")
    return found


def _send(staged: Path, repository: str, *, private: bool, revision: str | None) -> str:
    from huggingface_hub import HfApi

    api = HfApi()
    api.create_repo(repository, private=private, exist_ok=True)
    if revision is not None:
        api.create_branch(repository, branch=revision, exist_ok=True)
    commit = api.upload_folder(
        repo_id=repository,
        folder_path=staged,
        revision=revision,
        delete_patterns=[f"{BUNDLE_FOLDER}/*", EVALUATION_FILE, TRAINING_FILE],  # an earlier commit's, of other weights
        commit_message="Publish with jepakit",
    )
    return str(commit.commit_url)
