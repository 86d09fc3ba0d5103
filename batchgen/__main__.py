from batchgen.cli.entry import main

main()
