from batchgen.door import main

main()
