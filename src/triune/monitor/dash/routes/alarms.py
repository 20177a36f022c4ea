"""What the rules found in a run, what they could not know, and what each of them watches."""

from __future__ import annotations

import inspect
from dataclasses import asdict

from fastapi import APIRouter

from triune.monitor.alarms import ALARMS, NOTED, read
from triune.monitor.dash.reading import Json, OneStore, number

router = APIRouter()


@router.get("/api/alarms")
def alarms(store: OneStore) -> Json:
    """Alarms in the order in which they were raised, those that hold first."""
    found = sorted(read(store), key=lambda alarm: (alarm.over is not None, -alarm.step))
    return {
        "alarms": [
            {
                **asdict(alarm),
                "value": number(alarm.value),
                "bound": number(alarm.bound),
                "where": alarm.where,
            }
            for alarm in found
        ],
        "notes": [
            {"rule": event.detail["rule"], "message": event.detail["message"], "step": event.step}
            for event in store.events(NOTED)
        ],
        "rules": [{"name": name, "watches": inspect.getdoc(ALARMS[name])} for name in ALARMS],
    }
