"""`python -m difflow COMMAND`, and so `torchrun -m difflow COMMAND`."""
from difflow.cli.root import main

main()
