"""Evaluation: distances of generated and reconstructed audio to held-out music."""


rule evaluation:
    input:
        rules.generation.input,
