"""What is measured with patched runs: effects, controls, verdicts, Shapley values, and the statistics behind them."""
