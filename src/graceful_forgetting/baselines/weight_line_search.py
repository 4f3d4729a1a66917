"""Weight line search: how far to go from the base model to the trained one, judged by held-out rows."""

import math
from collections.abc import Callable, Mapping

import torch
from peft import LoraConfig, PeftModel
from torch import Tensor
from transformers import PreTrainedModel

from graceful_forgetting.baselines.baseline import Baseline, BaselineContext, Need
from graceful_forgetting.baselines.quadratic import trained_parameters
from graceful_forgetting.results.result import LineSearchResult
from graceful_forgetting.runtime.distributed import from_main_process

LAMBDAS = (0.5, 0.7, 0.85, 1.0, 1.15, 1.3, 1.5, 2.0)
# Of an adapter's product B A, the factor that stays: the product is linear in the other one, which starts at 0.
_STAYS = (".lora_A.", ".lora_embedding_A.")


class WeightLineSearch(Baseline):
    """θ ← θ_base + λ (θ_L − θ_base) after training, θ_L its end; of `LAMBDAS` the λ of lowest held-out loss.

    It costs one pass over the held-out rows for each λ and no training; 1, which changes nothing, wins a tie. λ > 1
    says that learning should have gone further away from what the base model knew, λ < 1 that it has lost something of
    it. Of an adapter, λ is a factor on what it adds to the weights.

    Source: ExPO (Zheng et al., *Model Extrapolation Expedites Alignment*, arXiv 2404.16792, eq. 2, with α = λ − 1),
    which extrapolates from a supervised model through an aligned one and chooses α by a reward model; λ < 1 is WiSE-FT
    (Wortsman et al., CVPR 2022, arXiv 2109.01903). The values of λ are this project's.
    """

    needs = frozenset({Need.HELD_OUT})

    def __init__(self, context: BaselineContext) -> None:
        parameters = trained_parameters(context.model)
        if isinstance(context.model, PeftModel):
            _check_adapter(context.model, parameters)
        self._base = {
            name: parameter.detach().clone()
            for name, parameter in parameters.items()
            if not any(part in name for part in _STAYS)
        }

    @torch.no_grad()
    def after_training(self, model: PreTrainedModel, held_out_loss: Callable[[], float]) -> LineSearchResult:
        parameters = {name: value for name, value in trained_parameters(model).items() if name in self._base}
        ends = {name: parameter.detach().clone() for name, parameter in parameters.items()}

        def move(share: float) -> None:
            for name, parameter in parameters.items():
                value = ends[name]
                # The sum would not give back the same numbers.
                if share != 1:
                    wide = torch.promote_types(value.dtype, torch.float32)
                    value = torch.lerp(self._base[name].to(wide), value.to(wide), share)
                parameter.copy_(value)

        losses: dict[float, float | None] = {}
        try:
            for share in LAMBDAS:
                move(share)
                loss = held_out_loss()
                losses[share] = loss if math.isfinite(loss) else None
        finally:
            move(1.0)
        # All processes have to end with the same weights, whatever the last digits of their own losses.
        losses = from_main_process(losses)
        finite = [(loss, abs(share - 1), share) for share, loss in losses.items() if loss is not None]
        chosen = min(finite)[-1] if finite else 1.0
        move(chosen)
        return LineSearchResult(chosen, {f"{share:g}": loss for share, loss in losses.items()})


def _check_adapter(model: PeftModel, parameters: Mapping[str, Tensor]) -> None:
    config = model.active_peft_config
    products = [value for name, value in parameters.items() if ".lora_B." in name or ".lora_embedding_B." in name]
    if not isinstance(config, LoraConfig) or config.use_dora or any(bool(value.any()) for value in products):
        raise ValueError(
            "baseline='weight_line_search' scales what an adapter adds to the weights, which must be linear in one of "
            f"its factors and 0 at the start: this one ({config.peft_type.value}, or DoRA, or initialised or trained "
            "otherwise) is not. Use LoRA as it is by default, or train the model itself"
        )
