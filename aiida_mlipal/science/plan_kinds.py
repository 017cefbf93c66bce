"""The kinds of plans that an exploration can have."""

from __future__ import annotations

from typing import Final

from aiida_mlipal.science.exploration_plans import DynamicsPlan, Plan
from aiida_mlipal.science.plan_exchange import ReplicaExchangePlan
from aiida_mlipal.science.plan_metadynamics import MetadynamicsPlan
from aiida_mlipal.science.plan_plumed import PlumedPlan
from aiida_mlipal.science.plan_uncertainty import UncertaintyPlan

__all__ = ('PLANS',)

#: Plans by kind.
PLANS: Final[dict[str, type[Plan]]] = {
    plan.KIND: plan for plan in (DynamicsPlan, UncertaintyPlan, MetadynamicsPlan, PlumedPlan, ReplicaExchangePlan)
}
