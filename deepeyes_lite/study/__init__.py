"""The study of the paper's claims, for those who check or extend it: plan, records, ledger, figures."""
