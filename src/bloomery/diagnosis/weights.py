"""Checks on what was measured of a model: its weights, its units and its logits on a few real rows."""

from bloomery.diagnosis.columns import Columns
from bloomery.diagnosis.finding import Facts, Finding

MANY_DEAD = 0.1
"""Share of one layer's units. In healthy runs here none is."""
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
    for kind, word in (("dead", "never do anything"), ("stuck", "say the same whatever they see")):
        share, layer = measured.get(f"weights/{kind}_fraction", 0.0), measured.get(f"weights/{kind}_layer", -1.0)
        if share > MANY_DEAD:
            found.append(Finding(
                code=f"{kind}_units", severity="warning",
                evidence={f"{kind}_fraction": share, "layer": layer},
                title=f"{100 * share:.0f} % of the MLP units of layer {layer:.0f} {word} on real text",
                remedy="Lower the learning rate and the weight decay; check the initialisation; a narrower MLP would do the same work.",
            ))  # fmt: skip
    normaliser, top = measured.get("weights/log_normaliser", 0.0), measured.get("weights/largest_logit", 0.0)
    if abs(normaliser) > LARGE_NORMALISER or top > LARGE_LOGIT:
        found.append(Finding(
            code="logit_drift", severity="warning", evidence={"log_normaliser": normaliser, "largest_logit": top},
            title=f"Logits have drifted: the mean log-normaliser is {normaliser:.3g}, the largest logit {top:.3g}",
            remedy="Train with z_loss = 1e-4 (PaLM, arXiv:2204.02311, sec. 5), or lower embedding_learning_rate.",
        ))  # fmt: skip
    return found
