"""What people read: estimate, dry run, tables, progress and the HTML report."""
