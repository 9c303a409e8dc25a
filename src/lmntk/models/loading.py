"""Pre-trained masked language models from a local folder or a hub name, with a fingerprint of their content."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lmntk.errors import UserError

BOOKKEEPING = ("_name_or_path", "architectures", "transformers_version", "dtype", "torch_dtype", "id2label", "label2id")
DTYPES = {"float32": torch.float32, "float64": torch.float64}


@dataclass(frozen=True)
class Pretrained:
    """A loaded network with its tokenizer; ``fingerprint`` is a sha256 of its weights' content."""

    network: Any
    tokenizer: Any
    name: str
    fingerprint: str
    stored_dtype: str

    @property
    def pad_id(self) -> int:
        """The id that fills batches up; where there is none, 0, which the attention mask hides."""
        found = self.tokenizer.pad_token_id
        found = self.network.config.pad_token_id if found is None else found
        return 0 if found is None else int(found)


def fingerprint(network: nn.Module) -> str:
    """Returns the sha256 of a network's configuration, parameters and buffers. About 1 s a GB.

    The configuration counts because the same weights compute something else with, say, another number of heads.
    """
    config = getattr(network, "config", None)
    settings = {} if config is None else {name: value for name, value in config.to_dict().items() if name not in BOOKKEEPING}
    digest = hashlib.sha256(json.dumps([type(network).__name__, settings], sort_keys=True, default=str).encode())
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().contiguous().cpu().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def load_masked_lm(name: str, dtype: str = "float32", attention: str | None = None, needs_head: bool = True) -> Pretrained:
    """Returns the masked language model and tokenizer of a local folder, or of a hub name when there is no such folder.

    Weights stored in half precision are computed with in ``dtype``. No pickle is read: safetensors only. ``needs_head=False``
    takes a checkpoint without a masked-word head too: head mode reads the base model alone.

    Raises:
        UserError: no such folder or name, a folder without config or weights, a model without a masked-word head.
    """
    from safetensors import SafetensorError
    from transformers import MODEL_FOR_MASKED_LM_MAPPING, AutoConfig, AutoModelForMaskedLM, AutoTokenizer
    from transformers.utils import logging

    if dtype not in DTYPES:
        raise UserError(f"dtype: {dtype!r} is not one of {', '.join(DTYPES)}")
    local = Path(name).expanduser()
    looks_local = local.exists() or name.startswith((".", "/", "~")) or name.count("/") > 1
    if looks_local and not (local / "config.json").is_file():
        raise UserError(f"model: {name!r} is not a folder with a config.json; give a Hugging Face model folder or a hub name")
    source = str(local) if looks_local else name
    shown = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        config = AutoConfig.from_pretrained(source, local_files_only=looks_local)
        if type(config) not in MODEL_FOR_MASKED_LM_MAPPING:
            raise UserError(f"model: {name!r} is a {config.model_type} model, which has no masked-language-model head; use a masked LM")
        extra = {} if attention is None else {"attn_implementation": attention}
        network, report = AutoModelForMaskedLM.from_pretrained(
            source, dtype=DTYPES[dtype], use_safetensors=True, output_loading_info=True, local_files_only=looks_local, **extra
        )
        tokenizer = AutoTokenizer.from_pretrained(source, local_files_only=looks_local)
    except UserError:
        raise
    except (
        OSError,
        ValueError,
        KeyError,
        RuntimeError,
        ImportError,
        SafetensorError,
    ) as error:  # RuntimeError: shapes that do not fit the config
        reason = " ".join(str(error).split())[:300]
        offline = " (offline mode is on)" if os.environ.get("HF_HUB_OFFLINE") == "1" else ""
        raise UserError(f"model: cannot load {name!r} as a masked language model{offline}: {reason}") from error
    finally:
        logging.set_verbosity(shown)
    base = getattr(network, "base_model_prefix", "")
    lost = sorted(key for key in report["missing_keys"] if not key.startswith(f"{base}."))
    if lost and needs_head:
        architecture = ", ".join(getattr(config, "architectures", None) or ["unknown"])
        raise UserError(
            f"model: {name!r} ({architecture}) has no masked-language-model head: {lost[0]!r} is not in its weights; use a "
            "masked-LM checkpoint, or head mode"
        )
    missing = sorted(key for key in report["missing_keys"] if key not in lost and ".pooler." not in key)
    if missing:
        raise UserError(f"model: {name!r} lacks weights, {missing[0]!r} among {len(missing)}; the checkpoint is incomplete")
    stored = json.loads((local / "config.json").read_text()) if looks_local else config.to_dict()
    network.eval()
    positions = getattr(config, "max_position_embeddings", None)
    if positions:
        taken = 0 if (padding := _padding_of_positions(network)) is None else padding + 1  # RoBERTa counts from there
        tokenizer.model_max_length = min(tokenizer.model_max_length, positions - taken)
    return Pretrained(network, tokenizer, name, fingerprint(network), str(stored.get("dtype") or stored.get("torch_dtype") or "float32"))


def _padding_of_positions(network: nn.Module) -> int | None:
    """Returns the padding row of the position table, if there is a table with one."""
    tables = (
        module for name, module in network.named_modules() if name.endswith("position_embeddings") and isinstance(module, nn.Embedding)
    )
    return next((table.padding_idx for table in tables), None)
