"""Checks on what was measured of a model: its weights, its units and its logits on a few real rows."""

from bloomery.diagnosis.columns import Columns
from bloomery.diagnosis.finding import Facts, Finding

MANY_DEAD = 0.1
"""Share of one layer's units. In healthy runs here none is."""
SATURATED = 64.0
"""Mean length of queries times that of keys over sqrt(head width), the most a logit can be. With QK-norm it begins at sqrt(width), 4 to 12;
at 64 the second token of a softmax can be lost in rounding."""
LARGE_NORMALISER = 24.0
"""Mean |log Z| in nats. It starts at ln(vocabulary), 5 to 12, and has no reason to leave it but drift."""
LARGE_LOGIT = 64.0
"""bfloat16 has steps of half a nat from here on: neighbouring probabilities differ by a factor of 1.6."""


def find_bad_weights(columns: Columns, facts: Facts) -> list[Finding]:
    """Weights that are not finite, units that do nothing, logits too large for what they are computed in."""
    measured, found = facts.measured, []
    if broken := measured.get("weights/not_finite", 0.0):
        found.append(Finding(
            code="not_finite", severity="error", evidence={"values": broken},
            title=f"{broken:.0f} weights are not finite numbers",
            remedy="Go back to a snapshot from before; lower the learning rate.",
        ))  # fmt: skip
    dead, layer = measured.get("weights/dead_fraction", 0.0), measured.get("weights/dead_fraction_layer", -1.0)
    if dead > MANY_DEAD:
        found.append(Finding(
            code="dead_units", severity="warning", evidence={"dead_fraction": dead, "layer": layer},
            title=f"{100 * dead:.0f} % of the MLP units of layer {layer:.0f} never say anything on real text",
            remedy="Check the initialisation; lower the learning rate and the weight decay. A narrower MLP would do the same work.",
        ))  # fmt: skip
    scale, layer = measured.get("weights/attention_scale", 0.0), measured.get("weights/attention_scale_layer", -1.0)
    if scale > SATURATED:
        found.append(Finding(
            code="saturated_attention", severity="warning", evidence={"attention_scale": scale, "layer": layer},
            title=f"Attention of layer {layer:.0f} is saturated: its logits reach {scale:.0f}, so that one token takes all",
            remedy="Train with qk_norm = true, a lower learning rate, or a longer warm-up (ViT-22B, arXiv:2302.05442, sec. 2).",
        ))  # fmt: skip
    normaliser, top = measured.get("weights/log_normaliser", 0.0), measured.get("weights/largest_logit", 0.0)
    if abs(normaliser) > LARGE_NORMALISER or top > LARGE_LOGIT:
        found.append(Finding(
            code="logit_drift", severity="warning", evidence={"log_normaliser": normaliser, "largest_logit": top},
            title=f"Logits have drifted: the mean log-normaliser is {normaliser:.3g}, the largest logit {top:.3g}",
            remedy="Train with z_loss = 1e-4 (PaLM, arXiv:2204.02311, sec. 5), or lower embedding_learning_rate.",
        ))  # fmt: skip
    return found
