"""The kinds of plans that an exploration can have."""

from __future__ import annotations

from typing import Final

from aiida_mlipal.science.exploration_plans import DynamicsPlan, Plan

__all__ = ('PLANS',)

#: Plans by kind.
PLANS: Final[dict[str, type[Plan]]] = {plan.KIND: plan for plan in (DynamicsPlan,)}
