"""Properties are about values: that examples take long to draw where other tests run beside is no finding."""

from hypothesis import HealthCheck, settings

settings.register_profile("patient", suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")
