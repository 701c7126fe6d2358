"""From held-out predictions to evidence: gates, figures, the report and the model card."""
