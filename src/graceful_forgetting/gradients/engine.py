"""Per-sample gradients of a whole batch from one forward and one backward pass.

Forward hooks note the inputs of every module that owns a wanted parameter; hooks on the outputs receive δ
in the backward pass, form the per-sample gradients of one parameter at a time, a block at a time, hand them
to a reducer and drop them. autograd itself computes no parameter gradient: parameters are frozen, and the
first output on the way that would carry no gradient is made to. The cost is that of a training step: the
product δᵀa per sample stands in for the weight gradient that is left out.

No rule is trusted: before the first batch its result on two samples is compared with autograd's. There are two slow
exact paths, announced by name. A module that no rule knows is run forward and backward once more for each sample.
Parameters for which that cannot be done, or whose rule fails the check, take one backward pass of the model a sample.
"""

import logging
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from types import TracebackType
from typing import Any, Self

import torch
from peft import PeftModel
from torch import Tensor, nn
from torch.autograd.graph import register_multi_grad_hook

from graceful_forgetting.gradients.calls import Call, Rule, UnsupportedUse, reached
from graceful_forgetting.gradients.contributions import Contribution, Dense, Direct, Routed, Rows, as_matrix
from graceful_forgetting.gradients.parameters import lowest_precision
from graceful_forgetting.gradients.recompute import recomputed_rule
from graceful_forgetting.gradients.reducers import Reducer, Signature
from graceful_forgetting.gradients.rules import rule_for
from graceful_forgetting.gradients.token_loss import counted_logits, counted_targets, mean_nll
from graceful_forgetting.gradients.undisturbed import differentiating

logger = logging.getLogger(__name__)

Relabel = Callable[[Tensor, Tensor], Tensor]

# Elements of per-sample gradient formed at once, of one sample and of all: few enough to stay in a CPU's cache until
# they are reduced, enough for an efficient product. A GPU wants few, large ones.
_CPU_BLOCK = (2**18, 2**20)
_DEVICE_BLOCK = (2**26, 2**26)
_NAMES_SHOWN = 8


class _Demotion(Exception):
    """Parameters that must leave the batched path; raised in the forward pass, before anything is reduced."""

    def __init__(self, names: Collection[str], reason: str) -> None:
        super().__init__(reason)
        self.names = names
        self.reason = reason


@dataclass
class _Site:
    """One parameter's uses in one pass: their gradients are summed before they are reduced."""

    pending: int = 0
    contributions: list[Contribution] = field(default_factory=list)


class PerSampleEngine:
    """Reduces the per-sample gradients ∇L(x) of chosen parameters; a context manager, as it hooks the model.

    Inside the block the model is in evaluation mode and its parameters are frozen; at the end hooks are
    removed and modes and `requires_grad` flags restored. Neither weights nor `.grad` nor random streams are
    touched.

    Args:
        model: causal language model of transformers, or a PEFT model around one.
        names: parameters, by `named_parameters()` name; tied ones under their one name.

    Raises:
        ValueError: prompt-learning adapters; a name the model lacks.
    """

    def __init__(self, model: nn.Module, names: Collection[str]) -> None:
        if isinstance(model, PeftModel) and model.active_peft_config.is_prompt_learning:
            raise ValueError(
                f"model has virtual tokens ({model.active_peft_config.peft_type.value}), which shift its "
                "logits against the labels; use LoRA or train the model itself"
            )
        self._model = model
        self._names = set(names)
        self._parameters = {name: p for name, p in model.named_parameters() if name in self._names}
        # Parameters on the slow paths: by a backward pass of the model, and by one of their module.
        self._slow: set[str] = set()
        self._recomputed: set[str] = set()
        # Modules whose rules have been checked, and the number of samples they were checked with.
        self._checked: set[nn.Module] | None = None
        self._checked_samples = 0
        self._called: set[nn.Module] = set()
        # Modules with a use that no rule covers and that the loss does not depend on (a weight norm, detached).
        self._tolerated: set[nn.Module] = set()
        # Found in the check: parameters that such a use does reach, by reason.
        self._refused: dict[str, set[str]] = {}
        self._announced: set[str] = set()
        self._recording = False
        # Of the pass under way.
        self._sites: dict[str, _Site] = {}
        self._reducer: Reducer = Signature()
        self._shape = torch.Size([0, 0])
        self._buffers: dict[torch.device, Tensor] = {}
        self._exit = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.enter_context(differentiating(self._model, self._names))
            for parameter in self._parameters.values():
                parameter.requires_grad_(False)
            canonical = {id(parameter): name for name, parameter in self._parameters.items()}
            for module in self._model.modules():
                owned = {
                    local: canonical[id(parameter)]
                    for local, parameter in module.named_parameters(recurse=False, remove_duplicate=False)
                    if id(parameter) in canonical
                }
                if owned and isinstance(module, nn.ParameterDict | nn.ParameterList):
                    # Of these no use is seen; a check on rows that do not happen to use them would agree on 0.
                    self._demote(owned.values(), "they are in a container, which is never called")
                elif owned:
                    rule = rule_for(module)
                    if rule is None:
                        self._recomputed.update(owned.values())
                    stack.callback(self._hook(module, owned, rule or recomputed_rule))
            self._exit = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._sites, self._buffers = {}, {}
        self._exit.close()

    def run(self, batch: Mapping[str, Tensor], reducer: Reducer, relabel: Relabel | None = None) -> Tensor:
        """Hand every per-sample gradient of the batch to `reducer`.

        Args:
            batch: `input_ids`, `attention_mask`, `labels`, each (batch, length), padded on either side;
                further entries (`position_ids`) go to the model.
            reducer: see `graceful_forgetting.gradients.reducers`.
            relabel: maps logits and targets at counted positions, (batch, positions, vocabulary) and
                (batch, positions), to the targets whose loss is differentiated; default: the labels.

        Returns:
            (batch,) float32: L(x) of every row.
        """
        samples = min(2, len(batch["labels"]))
        if samples > self._checked_samples:
            ends = [0, len(batch["labels"]) - 1][:samples]
            self._check_rules({name: tensor[ends] for name, tensor in batch.items()})
            self._checked_samples = samples
            self._buffers = {}  # with the kernel, batches need much less of it
        return self._run(batch, reducer, relabel)

    def slow_parameters(self) -> dict[str, str]:
        """Parameters on a slow path, with what is run once more for every sample: 'module' or 'model'."""
        return {**dict.fromkeys(self._recomputed, "module"), **dict.fromkeys(self._slow, "model")}

    def _run(self, batch: Mapping[str, Tensor], reducer: Reducer, relabel: Relabel | None = None) -> Tensor:
        while True:
            try:
                return self._pass(batch, reducer, relabel)
            except _Demotion as demotion:
                self._demote(demotion.names, demotion.reason)

    def _pass(self, batch: Mapping[str, Tensor], reducer: Reducer, relabel: Relabel | None) -> Tensor:
        labels = batch["labels"]
        positions, targets = counted_targets(batch)
        reducer.start(len(labels), labels.device)
        self._sites = {name: _Site() for name in self._names - self._slow}
        self._reducer, self._shape = reducer, labels.shape
        with torch.enable_grad():
            self._recording = True
            try:
                logits = counted_logits(self._model, batch, positions)
            finally:
                self._recording = False
            if relabel is not None:
                targets = relabel(logits.detach(), targets)
            losses = mean_nll(logits, targets, consume=True)
            if losses.requires_grad:
                losses.sum().backward()
        # Uses that the loss does not depend on never report; their gradient is 0.
        for name, site in self._sites.items():
            self._reduce(name, site)
        if self._slow:
            for sample in range(len(labels)):
                self._autograd(batch, targets, sample, self._slow, reducer)
        return losses.detach()

    def _hook(self, module: nn.Module, owned: Mapping[str, str], rule: Rule) -> Callable[[], None]:
        def note(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
            names = {local: name for local, name in owned.items() if name not in self._slow}
            if not self._recording or not names:
                return None
            if self._checked is not None and module not in self._checked:
                raise _Demotion(names.values(), "their module was not called when the rules were checked")
            self._called.add(module)
            self._recording = False  # rules may call the module themselves
            try:
                output, backward = rule(Call(module, args, kwargs, output, set(names), *self._shape))
            except UnsupportedUse as use:
                return self._tolerate(module, names.values(), output, str(use))
            finally:
                self._recording = True
            for name in names.values():
                self._sites[name].pending += 1
            output, tensors = reached(output)

            # Popped when used, so that activations go as the backward pass goes.
            waiting = [backward]

            @torch.no_grad()
            def receive(*deltas: Tensor | None) -> None:
                for local, contribution in waiting.pop()(*deltas):
                    site = self._sites[names[local]]
                    site.contributions.append(contribution)
                    site.pending -= 1
                    if site.pending == 0:
                        self._reduce(names[local], site)

            if len(tensors) == 1:
                tensors[0].register_hook(receive)
            else:
                register_multi_grad_hook(tensors, lambda deltas: receive(*deltas))
            return output

        return module.register_forward_hook(note, with_kwargs=True).remove

    def _tolerate(self, module: nn.Module, names: Collection[str], output: Any, reason: str) -> Any:
        """Let a use pass that no rule covers, as long as no gradient comes back from it."""
        checking = self._checked is None
        if not checking and module not in self._tolerated:
            raise _Demotion(names, reason)
        self._tolerated.add(module)
        output, tensors = reached(output)

        def refuse(_: Tensor) -> None:
            if not checking:
                raise RuntimeError(
                    f"a use of {', '.join(sorted(names))} has a gradient that it had not when the rules were checked "
                    f"({reason}); score with the oracle"
                )
            self._refused.setdefault(reason, set()).update(names)

        for tensor in tensors:
            tensor.register_hook(refuse)
        return output

    @torch.no_grad()
    def _reduce(self, name: str, site: _Site) -> None:
        contributions, site.contributions = site.contributions, []
        if not contributions:
            return
        routed = [contribution for contribution in contributions if isinstance(contribution, Routed)]
        if routed:
            # Expert weights are used in no other way.
            assert len(routed) == len(contributions)
            for piece in Routed.joined(routed).pieces(self._block_limits(name)[1]):
                self._reducer.sparse(name, *piece)
            return
        sparse = [contribution for contribution in contributions if isinstance(contribution, Rows)]
        products = [contribution for contribution in contributions if isinstance(contribution, Dense)]
        if len(sparse) == len(contributions):
            merged = Rows.joined(sparse).merged()
            self._reducer.sparse(name, merged.samples, merged.rows, merged.values)
            return
        if len(products) + len(sparse) == len(contributions) and self._reduce_product(name, products, sparse):
            return
        full = [c.in_float32() for c in contributions if isinstance(c, Dense | Direct)]
        first, *others = full
        for samples, rows, block in self._blocks(name):
            first.write_to(block, samples, rows)
            for contribution in (*others, *sparse):
                contribution.add_to(block, samples, rows)
            self._reducer.dense(name, samples.start, rows.start, block)

    def _reduce_product(self, name: str, products: Sequence[Dense], sparse: Sequence[Rows]) -> bool:
        """Reduce gradients by their factors, and the rows that look-ups add (of tied embeddings); False if refused."""
        product = Dense.joined(products)
        if not self._reducer.product(name, product.left, product.right):
            return False
        if sparse:
            looked_up = Rows.joined(sparse)
            rows = looked_up.merged()
            # A row that occurs at several positions is the same at each.
            taken = torch.empty_like(rows.values)
            taken[rows.places] = product.at(looked_up.ids).flatten(0, 1)
            self._reducer.sparse(name, rows.samples, rows.rows, rows.values, taken)
        return True

    def _block_limits(self, name: str) -> tuple[int, int]:
        return _CPU_BLOCK if self._parameters[name].device.type == "cpu" else _DEVICE_BLOCK

    def _blocks(self, name: str) -> Iterator[tuple[slice, slice, Tensor]]:
        """Samples, rows and a buffer for their gradients; all samples of some rows come in sequence."""
        device, (of_sample, limit) = self._parameters[name].device, self._block_limits(name)
        height, columns = as_matrix(self._parameters[name]).shape
        row_step = min(height, max(1, of_sample // columns))
        sample_step = max(1, limit // (row_step * columns))
        # One buffer for all: fresh memory for every block costs more than what is written to it.
        size = min(self._shape[0], sample_step) * row_step * columns
        if device not in self._buffers or self._buffers[device].numel() < size:
            self._buffers[device] = torch.empty(size, device=device)
        for row in range(0, height, row_step):
            rows = slice(row, min(row + row_step, height))
            for sample in range(0, self._shape[0], sample_step):
                samples = slice(sample, min(sample + sample_step, self._shape[0]))
                shape = (samples.stop - samples.start, rows.stop - rows.start, columns)
                yield samples, rows, self._buffers[device][: math.prod(shape)].view(shape)

    def _autograd(
        self, batch: Mapping[str, Tensor], targets: Tensor, sample: int, names: Collection[str], reducer: Reducer
    ) -> None:
        """Hand ∇L of one sample for `names` to `reducer`, by ordinary autograd, each parameter's as soon as it exists.

        Parameters without a gradient are left out.
        """
        row = {name: tensor[sample : sample + 1] for name, tensor in batch.items()}
        positions, _ = counted_targets(batch)
        parameters = {name: self._parameters[name] for name in sorted(names)}

        def take(name: str, gradient: Tensor) -> Tensor:
            reducer.dense(name, sample, 0, as_matrix(gradient).float().unsqueeze(0).clone())
            # What autograd keeps to the end instead has the same shape and a single element of memory.
            return gradient.new_zeros(()).expand_as(gradient)

        with ExitStack() as stack:
            for name, parameter in parameters.items():
                stack.callback(parameter.requires_grad_, False)
                parameter.requires_grad_(True)
                stack.callback(parameter.register_hook(partial(take, name)).remove)
            with torch.enable_grad():
                loss = mean_nll(counted_logits(self._model, row, positions), targets[sample : sample + 1])
                if loss.requires_grad:
                    torch.autograd.grad(loss[0], list(parameters.values()), allow_unused=True)

    def _check_rules(self, batch: Mapping[str, Tensor]) -> None:
        """Compare every rule's result on a small batch with autograd's, and demote those that differ."""
        self._checked, self._called, self._refused = None, set(), {}
        found, expected = Signature(), Signature()
        self._run(batch, found)
        self._checked = self._called
        for reason, names in self._refused.items():
            self._demote(names, reason)
        _, targets = counted_targets(batch)
        fast = self._names - self._slow
        expected.start(len(targets), targets.device)
        for sample in range(len(targets)):
            self._autograd(batch, targets, sample, fast, expected)
        # What a gradient is rounded to is decided by all that it passes, as a frozen base under a float32 adapter.
        agreement = found.agreement(expected, fast, lowest_precision(self._model))
        wrong = {name for name, agrees in agreement.items() if not agrees}
        if wrong:
            self._demote(wrong, "their rule disagrees with autograd")
        self._announce_recomputed()

    def _announce_recomputed(self) -> None:
        fresh = self._recomputed - self._announced
        self._announced |= fresh
        if fresh:
            self._announce(fresh, "no rule for their module", "pass of that module")

    def _demote(self, names: Collection[str], reason: str) -> None:
        listed = set(names) - self._slow
        self._slow |= listed
        self._recomputed -= listed
        self._announce(listed, reason, "backward pass of the model")

    def _announce(self, names: Collection[str], reason: str, path: str) -> None:
        listed = sorted(names)
        more = f" and {len(listed) - _NAMES_SHOWN} more" if len(listed) > _NAMES_SHOWN else ""
        logger.warning(
            "%d parameters take the slow exact path, one %s a sample (%s): %s%s",
            len(listed),
            path,
            reason,
            ", ".join(listed[:_NAMES_SHOWN]),
            more,
        )
