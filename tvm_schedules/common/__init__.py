"""What every part of the package uses: files, readers of untrusted input, names, types, the terminal."""
