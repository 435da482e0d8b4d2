"""Report: tables, figures and the claims."""


rule report:
    input:
        rules.evaluation.input,
