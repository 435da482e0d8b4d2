"""A replication of "An Independence-promoting Loss for Music Generation with Language Models" (ICML 2024)."""
