"""Update rules: how the tasks' gradients or losses become one update."""
