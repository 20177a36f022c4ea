"""From rows and generators to samples: adapters, sources, mixtures, storage and audits. Imports no torch."""
