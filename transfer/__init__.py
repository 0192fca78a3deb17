"""The spine: a checkpoint comes in, becomes one `Backbone`, is carried into every task, and leaves as a record.

Importing this package imports nothing heavy: `results` reads `transfer.record` without torch.
"""
