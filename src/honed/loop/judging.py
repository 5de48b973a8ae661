"""The gate asked about one candidate, beside all that were judged before it; and the candidate offered to service."""

from collections.abc import Sequence

import anyio.to_thread
import msgspec

from honed import log
from honed.domain.episode_score import EpisodeScore
from honed.domain.times import now_ms
from honed.domain.trained_model import GateResult, TrainedModel
from honed.errors import ApplyError
from honed.loop.in_service import Announce, InService
from honed.ports import Gate, HeldOut, Store, TrainingSet


async def verdict_on(
    gate: Gate,
    store: Store,
    candidate: TrainedModel,
    held_out: Sequence[HeldOut],
    scores: Sequence[EpisodeScore],
    *,
    incumbent_id: str | None,
    episode_count: int | None = None,
) -> GateResult:
    """The verdict; a gate that breaks gives one too, which is no pass.

    Args:
        gate: what decides.
        store: knows the verdicts before this one.
        candidate: a registered adapter.
        held_out: the episodes.
        scores: of each, in the same order.
        incumbent_id: what it was measured against; None is the bare base.
        episode_count: episodes that there were when the held-out ones were read.
    """
    judged = {
        model.id: model.gate
        for model in await store.list_models(candidate.scenario)
        # no verdict puts a control into service, so its look costs the others nothing
        if model.gate is not None
        and model.learn_model == candidate.learn_model
        and model.selection != "blind"
    }
    try:
        verdict = await anyio.to_thread.run_sync(
            lambda: gate.judge(
                held_out,
                scores,
                incumbent_id=incumbent_id,
                now_ms=now_ms(),
                earlier=list(judged.values()),
                probe_kl=candidate.metrics.probe_kl if candidate.metrics else None,
            )
        )
    except Exception as error:
        # whatever measures may do: the adapter is there, and must not go live for it
        log.get(scenario=candidate.scenario).exception(log.GATE_FAILED, model_id=candidate.id)
        num_successes = sum(episode.is_success for episode in held_out)
        verdict = GateResult(
            decision="not_enough_evidence",
            proof="outcome",
            incumbent_id=incumbent_id,
            reason=f"the gate broke: {type(error).__name__}: {error}"[:300],
            num_successes=num_successes,
            num_failures=len(held_out) - num_successes,
            checked_at_ms=now_ms(),
        )
    before = judged.get(candidate.id)  # judged again: its looks before still count
    return msgspec.structs.replace(
        verdict,
        sketches=(before.sketches if before else ()) + verdict.sketches,
        episode_count=episode_count,
    )


async def decide(
    gate: Gate,
    store: Store,
    candidate: TrainedModel,
    training_set: TrainingSet,
    scores: Sequence[EpisodeScore],
    *,
    incumbent_id: str | None,
    announce: Announce,
) -> TrainedModel:
    """The candidate with its verdict, which is written down and told."""
    verdict = await verdict_on(
        gate,
        store,
        candidate,
        training_set.held_out,
        scores,
        incumbent_id=incumbent_id,
        episode_count=training_set.episode_count,
    )
    await store.set_gate(candidate.id, verdict)
    told = {"model_id": candidate.id, "decision": verdict.decision, "reason": verdict.reason}
    announce(log.GATE_DECIDED, told)
    log.get(scenario=candidate.scenario).info(log.GATE_DECIDED, proof=verdict.proof, **told)
    return msgspec.structs.replace(candidate, gate=verdict)


async def offer(in_service: InService, model: TrainedModel, announce: Announce) -> str:
    """Hand a judged model to service, and say what became of it; a server that fails is no fault of the model."""
    try:
        offered = await in_service.offer(model)
    except ApplyError as error:
        log.get(scenario=model.scenario).error(
            log.SWITCH_FAILED, model_id=model.id, error=str(error), advice=error.advice
        )
        announce(log.SWITCH_FAILED, {"model_id": model.id, "error": str(error)})
        return f"{model.id} not applied: {error}"
    return getattr(offered, "reason", f"{model.id} in service")
