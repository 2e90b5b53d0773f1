"""Steps of many processes: who holds which elements, and the one collective that makes a norm true.

Each process updates what it holds: the local shard of a parameter, of its gradient and of its state. Only sums leave
the process. ``ownership`` tells for each parameter which processes hold distinct elements and which hold copies,
``layout`` brings the parameters of an optimizer together, ``exchange`` adds the sums, ``agreement`` finds out at the
first step whether the processes mean the same and gives them one seed, and ``checks`` refuses what would be wrong.

The seam. A step is ``local pass → sums → exchange → factors → update``, and no more than the sums depends on where a
process ends. The reference path goes this way, and so does a compiled plan:

1. ``local_view`` gives it ``_local_tensor`` of a DTensor in the place of parameter, gradient and state.
2. Its norm pass stops before the factors, with sums of squares in ``cells``: float64, as long in every process.
3. A hook adds that array up over processes, in place. Until then nothing is written but the array.
4. Factors, numbers of state and the update start from the array, as if the pass had summed it all itself.
5. Whether any process has a gradient, AMP's ``found_inf`` and the loss are more numbers of the array.
6. Draws take the place of an element in the whole tensor from ``places``.
"""
