"""Data in: data sets, patient-grouped folds, simulated lesions, phantom exams, operating point."""
