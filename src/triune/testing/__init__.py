"""What tests are made of: tiny models, a policy that is a table, and two toy families that are no language models."""
