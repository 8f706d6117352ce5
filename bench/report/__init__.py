"""What is read out of records: tables, the report, plots, uncertainty and ranks; it trains nothing."""
