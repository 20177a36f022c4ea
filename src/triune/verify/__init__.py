"""Verifiers: small, named, versioned judges of one rollout or one group, and the judge that routes to them. No torch."""
