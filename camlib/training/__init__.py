"""Training: photos of classes, batches, what is learnt from, state and results."""

TEACHING = ("teacher_sees", "temperature", "label_share")  # options that decide what is learnt from a teacher
