"""What a student answers to held-out questions, measured without a judge: proxies, not DriveBench scores."""

from student.drive_kd.evaluation.evaluate import evaluate_questions

__all__ = ["evaluate_questions"]
