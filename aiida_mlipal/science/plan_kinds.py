"""The kinds of plans that an exploration can have."""

from __future__ import annotations

from typing import Final

from aiida_mlipal.science.exploration_plans import DynamicsPlan, Plan
from aiida_mlipal.science.plan_adversarial import AdversarialPlan
from aiida_mlipal.science.plan_basin_hopping import BasinHoppingPlan
from aiida_mlipal.science.plan_exchange import ReplicaExchangePlan
from aiida_mlipal.science.plan_metadynamics import MetadynamicsPlan
from aiida_mlipal.science.plan_neb import NebPlan
from aiida_mlipal.science.plan_normal_modes import NormalModesPlan
from aiida_mlipal.science.plan_plumed import PlumedPlan
from aiida_mlipal.science.plan_random_search import RandomSearchPlan
from aiida_mlipal.science.plan_uncertainty import UncertaintyPlan

__all__ = ('PLANS',)

#: Plans by kind.
PLANS: Final[dict[str, type[Plan]]] = {
    plan.KIND: plan
    for plan in (
        DynamicsPlan,
        UncertaintyPlan,
        MetadynamicsPlan,
        PlumedPlan,
        ReplicaExchangePlan,
        NebPlan,
        RandomSearchPlan,
        NormalModesPlan,
        AdversarialPlan,
        BasinHoppingPlan,
    )
}
