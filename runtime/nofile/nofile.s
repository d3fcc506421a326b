// An assembly file lets a function of the package be declared without a body.
