"""The clock: what runs when, the ledger of what ran, and the jobs themselves."""
