"""Whatever starts and steers runs: command line, launchers, data sets, studies and reports."""

if __name__ == "launch":  # in a checkout, `import launch` is `import allgrad.launch`
    from allgrad.names import also_known_as

    also_known_as(__name__)
