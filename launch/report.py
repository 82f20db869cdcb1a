"""What a run prints when it is done."""

ROWS = (
    ("train loss", "train_loss", "{:.4f}"),
    ("validation loss", "val_loss", "{:.4f}"),
    ("validation accuracy", "val_accuracy", "{:.4f}"),
    ("validation perplexity", "val_perplexity", "{:.4g}"),
    ("validation MSE", "val_mse", "{:.6g}"),
    ("validation MAE", "val_mae", "{:.6g}"),
    ("validation R2", "val_r2", "{:.4f}"),
    ("epochs", "epochs", "{:.4g}"),
    ("steps", "steps", "{:,}"),
    ("samples a second", "samples_per_second", "{:,.0f}"),
    ("noise scale (samples)", "noise_scale", "{:,.0f}"),
    ("bytes sent a step", "bytes_per_step", "{:,.0f}"),
    ("ranks", "world_size", "{}"),
    ("exchange of gradients", "overlap", "{}"),
    ("capture", "capture", "{}"),
    ("weights_sha256", "weights_sha256", "{}"),
)


def print_summary(summary: dict):
    """Print the summary of a run as a table, on rank 0 only."""
    from allgrad.ddp.comm import speaks

    if speaks():
        for label, key, form in ROWS:
            if key in summary:
                print(f"{label:>22}  {cell(summary[key], form)}{_remark(key, summary)}")


def _remark(key, summary):
    """Why overlap and capture are what they are, what sums go by; the noise scale's interval, or why it has none."""
    if key in ("overlap", "capture"):
        from allgrad.launch.flags import told

        way = summary.get("exchange") if key == "overlap" else None
        return f" ({'; '.join(filter(None, (told(summary[f'{key}_why']), way)))})"
    if key != "noise_scale":
        return ""
    if summary[key] is not None:
        low, high = summary.get("noise_scale_ci") or (None, None)
        interval = f"95 % above {low:,.0f}" if low is not None else ""
        if high is not None:
            interval = f"95 % between {low:,.0f} and {high:,.0f}"
        known = "; ".join(filter(None, (interval, summary.get("noise_scale_remark"))))
        return f" ({known})" if known else ""
    if summary["logical_shards"] < 2:
        return " (needs --shards 2 or more)"
    config = summary["config"]
    if config.get("compress") or config.get("sync_every") or config.get("reduce") == "adasum":
        return " (needs the exact gradient)"
    if config.get("batch_norm") == "sync":
        return " (needs shards that do not depend on one another)"
    return " (no signal above the noise at the end)"


def cell(value, form) -> str:
    """A value as text; "undefined" where there is none."""
    return "undefined" if value is None else form.format(value)
