"""Reference methods that know nothing but the boxes."""
