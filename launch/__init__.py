"""Whatever starts and steers runs: command line, launchers, data sets, studies and reports."""
