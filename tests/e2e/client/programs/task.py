"""One task of a completion service."""


def clientFunction(args, files):  # noqa: N802  # the name that clients call
    with open(files["extra"]) as extra:
        first = extra.readline().strip()
    return {"square": args["number"] ** 2, "extra": first}
