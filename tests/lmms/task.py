"""What lmms-eval asks a task for; imported by lmms-eval, next to the task's YAML file."""


def pictures(doc):
    return [doc["image"].convert("RGB")]


def messages(doc, lmms_eval_specific_kwargs=None):
    picture = {"type": "image", "url": pictures(doc)[0]}
    return [{"role": "user", "content": [picture, {"type": "text", "text": doc["question"]}]}]


def results(doc, answers):
    return {"exact_match": float(answers[0] == doc["answer"])}
