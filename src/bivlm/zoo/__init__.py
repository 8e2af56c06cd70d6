"""The small vision-language model that ships with the package, and the script that trained it."""
