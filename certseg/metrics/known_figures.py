"""The figures certseg's own stages, certifiers, attacks, brackets and trainings write, described.

The worst case is that of everything the attacker may do within the threat, as far as the certificate promises.
"""

from __future__ import annotations

from certseg.metrics.figures import (
    COUNT,
    FRACTION,
    GREY_LEVELS,
    NUMBER,
    PIXELS,
    RADIUS,
    SECONDS,
    SHARE,
    Figure,
    Side,
    register,
)

# --- accuracy and mean IoU -------------------------------------------------------------------------------------------

ACCURACY = register(
    Figure("accuracy", "labelled pixels with the right class", SHARE, Side.ESTIMATE, order=10, is_plain=True)
)
CERTIFIED_ACCURACY = register(
    Figure(
        "certified_accuracy",
        "labelled pixels that are certified and correct",
        SHARE,
        Side.LOWER,
        heading="accuracy",
        order=10,
        is_plain=True,
        counts_pixels=True,
    )
)
ATTACKED_ACCURACY = register(
    Figure(
        "attacked_accuracy",
        "labelled pixels an attack left with the right class",
        SHARE,
        Side.UPPER,
        heading="accuracy",
        order=10,
        is_plain=True,
    )
)
WORST_ACCURACY = register(
    Figure(
        "worst_case_accuracy",
        "labelled pixels that are certified and correct, less the certified ones that the certificate allows to be "
        "wrong in each image; a dash where it promises nothing about an image",
        SHARE,
        Side.LOWER,
        order=15,
    )
)
VOTED_ACCURACY = register(
    Figure(
        "voted_accuracy",
        "labelled pixels that the majority of votes has right at the adversarial images, an estimate; attacked "
        "accuracy counts a pixel as lost only where the votes show it",
        SHARE,
        Side.ESTIMATE,
        order=11,
    )
)
VOTED_MIOU = register(
    Figure("voted_miou", "the mIoU of the same majority, an estimate too", SHARE, Side.ESTIMATE, order=75)
)
COLLECTIVE_ACCURACY = register(
    Figure(
        "certified_collective_accuracy",
        "what one perturbation of the whole image must leave, where accuracy and abstention ask of each pixel whether "
        "any perturbation changes it",
        SHARE,
        Side.LOWER,
        heading="collective accuracy",
        order=20,
    )
)
MIOU = register(
    Figure("miou", "mean intersection over union", SHARE, Side.ESTIMATE, order=70, is_plain=True),
)
CERTIFIED_MIOU = register(
    Figure(
        "certified_miou",
        "of the certified map; for the mIoU only a worst-case figure is such a bound",
        SHARE,
        Side.ESTIMATE,
        heading="mIoU",
        order=70,
    )
)
ATTACKED_MIOU = register(
    Figure(
        "attacked_miou",
        "mean intersection over union an attack left, the lowest found by choosing one of its results for each image",
        SHARE,
        Side.UPPER,
        heading="mIoU",
        order=70,
        is_plain=True,
    )
)
WORST_MIOU = register(
    Figure(
        "worst_case_miou",
        "the mIoU that every attack within the threat must leave",
        SHARE,
        Side.LOWER,
        order=80,
        is_plain=True,
    )
)
ATTACKED_IMAGEWISE_MIOU = register(
    Figure(
        "attacked_imagewise_miou",
        "mIoU left of an image, over the classes in its own labels",
        SHARE,
        Side.UPPER,
        heading="imagewise mIoU",
    )
)
WORST_IMAGEWISE_MIOU = register(
    Figure(
        "worst_imagewise_miou",
        "lowest mIoU left of an image, over the classes in its own labels",
        SHARE,
        Side.UPPER,
    )
)

# --- chosen classes --------------------------------------------------------------------------------------------------

_RECALL = "of the pixels labelled {name} those that are"
_DICE = "Dice coefficient of {name}, image mean over the images that have it"
_EMPTY = "in images without {name}, labelled pixels that"
RECALL = register(
    Figure(
        "recall@{name}",
        f"{_RECALL} predicted as it, image mean over the images that have it; the others are its false negatives",
        SHARE,
        Side.ESTIMATE,
        heading="{name} recall",
        order=12,
    )
)
CERTIFIED_RECALL = register(
    Figure(
        "certified_recall@{name}",
        f"{_RECALL} certified as it",
        SHARE,
        Side.LOWER,
        heading="{name} recall",
        order=12,
    )
)
ATTACKED_RECALL = register(
    Figure(
        "attacked_recall@{name}",
        f"{_RECALL} left by an attack",
        SHARE,
        Side.UPPER,
        heading="{name} recall",
        order=12,
        is_plain=True,
    )
)
DICE = register(
    Figure("dice@{name}", _DICE, SHARE, Side.ESTIMATE, heading="{name} Dice", order=13),
)
WORST_DICE = register(
    Figure(
        "worst_case_dice@{name}",
        "the Dice coefficient that every attack within the threat must leave: pixels that are not certified count "
        "against it",
        SHARE,
        Side.LOWER,
        heading="{name} Dice",
        order=13,
    )
)
ATTACKED_DICE = register(
    Figure("attacked_dice@{name}", _DICE, SHARE, Side.UPPER, heading="{name} Dice", order=13, is_plain=True)
)
MISSED_IMAGES = register(
    Figure(
        "missed_images@{name}",
        "images with {name} in which not one of its pixels is right; of a certificate those in which none is certified",
        COUNT,
        heading="images missing {name}",
        order=14,
    )
)
UNPROTECTED_IMAGES = register(
    Figure(
        "unprotected_images@{name}",
        "images with {name} in which no pixel of it is certified as it",
        COUNT,
        heading="images missing {name}",
        order=14,
        is_plain=True,
    )
)
ATTACKED_MISSED_IMAGES = register(
    Figure(
        "attacked_missed_images@{name}",
        "images with {name} in which an attack left none of its pixels",
        COUNT,
        heading="images missing {name}",
        order=14,
        is_plain=True,
    )
)
IMAGES_WITH = register(
    Figure("images_with@{name}", "images with a pixel labelled {name}", COUNT, heading="images with {name}", order=15)
)
SPECIFICITY = register(
    Figure(
        "empty_specificity@{name}",
        f"{_EMPTY} are not predicted as it",
        SHARE,
        Side.ESTIMATE,
        heading="no {name} where there is none",
        order=16,
    )
)
CERTIFIED_SPECIFICITY = register(
    Figure(
        "certified_empty_specificity@{name}",
        f"{_EMPTY} are certified as something else",
        SHARE,
        Side.LOWER,
        heading="no {name} where there is none",
        order=16,
    )
)
ATTACKED_SPECIFICITY = register(
    Figure(
        "attacked_empty_specificity@{name}",
        f"{_EMPTY} an attack left as something else",
        SHARE,
        Side.UPPER,
        heading="no {name} where there is none",
        order=16,
        is_plain=True,
    )
)
PREDICTION_RECALL = register(
    Figure(
        "prediction_recall@{name}",
        f"{_RECALL} predicted as it by what is certified",
        SHARE,
        Side.ESTIMATE,
        heading="prediction {name} recall",
        order=121,
        is_plain=True,
    )
)
PREDICTION_DICE = register(
    Figure(
        "prediction_dice@{name}",
        "the Dice coefficient of the same prediction",
        SHARE,
        Side.ESTIMATE,
        heading="prediction {name} Dice",
        order=122,
        is_plain=True,
    )
)

# --- objects ---------------------------------------------------------------------------------------------------------

_OBJECTS = "of the labelled objects {name} those of whose pixels enough"
OBJECT_RECALL = register(
    Figure(
        "object_recall@{name}",
        f"{_OBJECTS} are predicted as it",
        SHARE,
        Side.ESTIMATE,
        heading="{name} objects kept",
        order=17,
    )
)
CERTIFIED_OBJECT_RECALL = register(
    Figure(
        "certified_object_recall@{name}",
        f"{_OBJECTS} are certified as it, or that one perturbation of the whole image cannot take enough pixels from; "
        "where alerts excuse a change, of the lost ones enough pixels raise one",
        SHARE,
        Side.LOWER,
        heading="{name} objects kept",
        order=17,
    )
)
ATTACKED_OBJECT_RECALL = register(
    Figure(
        "attacked_object_recall@{name}",
        f"{_OBJECTS} an attack left as it",
        SHARE,
        Side.UPPER,
        heading="{name} objects kept",
        order=17,
        is_plain=True,
    )
)
PREDICTION_OBJECT_RECALL = register(
    Figure(
        "prediction_object_recall@{name}",
        f"{_OBJECTS} are predicted as it by what is certified",
        SHARE,
        Side.ESTIMATE,
        heading="prediction {name} objects kept",
        order=123,
        is_plain=True,
    )
)
PRESENT_OBJECTS = register(
    Figure(
        "certified_presence@{name}",
        "of the labelled objects {name} those that more than half of the noisy copies show whatever an attack within "
        "the threat does; this is another predictor than the map of pixels, and no attack is compared with it",
        SHARE,
        Side.LOWER,
        heading="{name} objects present",
        order=17,
    )
)
OBJECT_NUMBER = register(
    Figure(
        "objects@{name}",
        "number of labelled objects {name} that are large enough to count",
        COUNT,
        heading="{name} objects",
        order=18,
    )
)
TINY_OBJECTS = register(
    Figure(
        "tiny_objects@{name}",
        "number of labelled objects {name} that are too small to count, and enter no other figure",
        COUNT,
        heading="tiny {name} objects",
        order=18,
    )
)
UNCOVERED_OBJECTS = register(
    Figure(
        "uncovered_objects@{name}",
        "objects {name} of which nothing is certified, not even one pixel",
        COUNT,
        heading="{name} objects uncovered",
        order=18,
    )
)
SMALLEST_OBJECT = register(
    Figure(
        "smallest_certified_object@{name}",
        "pixels of the smallest object {name} that is certified to be kept",
        PIXELS,
        heading="smallest certified {name}",
        order=19,
    )
)
OBJECT_RADIUS = register(
    Figure(
        "object_radius@{name}",
        "radius below which half of the objects {name} are kept, each for its own perturbation; one that is lost "
        "without attacker counts as 0",
        RADIUS,
        Side.LOWER,
        heading="radius of {name} objects",
        order=19,
    )
)
SILENTLY_LOST_OBJECTS = register(
    Figure(
        "silently_lost_objects@{name}",
        "objects {name} that an attack took so many pixels from without an alert that they are lost",
        COUNT,
        heading="{name} objects lost silently",
        order=18,
    )
)

# --- the certified prediction ----------------------------------------------------------------------------------------

ABSTENTION = register(
    Figure("abstention", "labelled pixels without a certified class", SHARE, Side.ESTIMATE, order=90, is_plain=True)
)
PREDICTION_ACCURACY = register(
    Figure(
        "prediction_accuracy",
        "of the predictor that is certified, without attacker",
        SHARE,
        Side.ESTIMATE,
        order=110,
    )
)
PREDICTION_MIOU = register(
    Figure("prediction_miou", "the mIoU of the same prediction", SHARE, Side.ESTIMATE, order=120, is_plain=True)
)
SAMPLES = register(Figure("samples", "noisy copies drawn of an image", COUNT, is_plain=True))
CONFIDENCE = register(Figure("confidence", "the probability with which an image's certificates hold", is_plain=True))

# --- groups of classes -----------------------------------------------------------------------------------------------

register(
    Figure(
        "certified_group_accuracy",
        "certified groups of classes that hold the true one count too, in accuracy and mIoU they do not",
        SHARE,
        Side.LOWER,
        heading="group accuracy",
        order=50,
        counts_pixels=True,
    )
)
register(
    Figure(
        "worst_case_group_accuracy",
        "the same less the certified pixels that the certificate allows to be wrong in each image",
        SHARE,
        Side.LOWER,
        order=55,
    )
)
register(
    Figure(
        "certified_information_gain",
        "of those pixels one whose group has s of the K classes counts 1 - log s / log K",
        SHARE,
        Side.LOWER,
        heading="information gain",
        order=60,
        counts_pixels=True,
    )
)
register(
    Figure(
        "worst_case_information_gain",
        "the same less the certified pixels that the certificate allows to be wrong in an image, where most is gained",
        SHARE,
        Side.LOWER,
        order=65,
    )
)
register(Figure("group_abstention", "labelled pixels certified on no level", SHARE, Side.ESTIMATE, order=100))
register(
    Figure(
        "level_{number}_share",
        "labelled pixels certified on level {number}; level 0 are the classes",
        SHARE,
        Side.ESTIMATE,
    )
)

# --- Lipschitz certificates ------------------------------------------------------------------------------------------

CERTIFIED_RADIUS = register(
    Figure(
        "certified_radius",
        "norm below which a pixel keeps its right class, 0 for a wrong one, mean over the labelled pixels",
        RADIUS,
        Side.LOWER,
        heading="radius",
        counts_pixels=True,
    )
)
GREY_LEVEL_SIZE = register(
    Figure("grey_levels", "the radius as root mean square change of an 8-bit value", GREY_LEVELS)
)
register(Figure("lipschitz_constant", "l2 change of the features for each unit of l2 change of the image, at most"))
ROBUSTNESS = register(
    Figure(
        "robustness@{number}",
        "radius below which less than {number} % of the labelled pixels change",
        RADIUS,
        Side.LOWER,
    )
)

# --- certificates against patches ------------------------------------------------------------------------------------

for _heading, _classes in (("mean recall", "the classes in the labels"), ("big class recall", "the big classes")):
    _stem = _heading.replace(" ", "_")
    register(
        Figure(
            f"prediction_{_stem}",
            f"share of a class that is predicted right, mean over {_classes}",
            SHARE,
            Side.ESTIMATE,
            is_plain=True,
        )
    )
    register(
        Figure(
            f"certified_{_stem}",
            f"share of a class that is certified and correct, mean over {_classes}",
            SHARE,
            Side.LOWER,
            heading=_heading,
            counts_pixels=True,
        )
    )
for _rule in ("tight", "unanimity"):
    register(
        Figure(
            f"{_rule}_certified_accuracy",
            f"labelled pixels that are correct and certified by the rule {_rule}",
            SHARE,
            Side.LOWER,
            is_plain=True,
            counts_pixels=True,
        )
    )
    register(
        Figure(
            f"{_rule}_certified_share",
            f"pixels certified by the rule {_rule}, right or wrong, labelled or not",
            SHARE,
            Side.ESTIMATE,
            is_plain=_rule != "tight",
        )
    )
register(Figure("false_alert_ratio", "labelled pixels that are correct and raise an alert", SHARE, Side.ESTIMATE))
register(Figure("false_alert_rate", "of the correct pixels those that raise an alert", SHARE, Side.ESTIMATE))
register(Figure("patch_height", "height of a patch in pixels", PIXELS, is_plain=True))
register(Figure("patch_width", "width of a patch in pixels", PIXELS, is_plain=True))
register(Figure("masks", "number of masks", COUNT, is_plain=True))

# --- the threat, in rows ---------------------------------------------------------------------------------------------

register(Figure("radius", "the size of the threat", RADIUS, is_plain=True))
register(Figure("share", "of the image that a patch covers", SHARE, is_plain=True))
register(Figure("aspect", "width of a patch by its height", NUMBER, is_plain=True))
register(Figure("height", "of a patch in pixels", PIXELS, is_plain=True))
register(Figure("width", "of a patch in pixels", PIXELS, is_plain=True))
register(Figure("count", "number of patches", COUNT, is_plain=True))

# --- attacks ---------------------------------------------------------------------------------------------------------

NORM = register(
    Figure(
        "norm",
        "of the smallest perturbation found; where the goal was not reached it is infinite, and a mean or percentile "
        "that takes it in is shown as a dash; the accuracies beside are those at the points found",
        RADIUS,
        Side.UPPER,
        order=30,
    )
)
register(Figure("norm@{number}", "{number} % of the images have none above it", RADIUS, Side.UPPER))
register(Figure("reached", "whether the goal was reached: 1 or 0", NUMBER, is_plain=True))
register(
    Figure(
        "reached_share",
        "images whose goal was reached, at several radii within each of them",
        SHARE,
        Side.UPPER,
        order=40,
    )
)
register(Figure("reached_images", "number of images whose goal was reached", COUNT, is_plain=True))
register(Figure("zero_gradients", "share of the gradients' entries that were exactly 0", FRACTION))
register(Figure("goal_share", "of the pixels with a goal those that reached it", SHARE, Side.UPPER))
register(Figure("alert_share", "labelled pixels that raise an alert under attack", SHARE, Side.UPPER))
register(
    Figure("silent_error_share", "labelled pixels that are wrong under attack and raise no alert", SHARE, Side.UPPER)
)
register(Figure("images_won", "images on which this member is the worst", COUNT, is_plain=True))
register(Figure("forward_passes", "forward passes of a member", COUNT, is_plain=True))
register(Figure("backward_passes", "backward passes of a member", COUNT, is_plain=True))
register(Figure("seconds", "seconds spent on a member", SECONDS, is_plain=True))

# --- the bracket -----------------------------------------------------------------------------------------------------

VIOLATIONS = register(
    Figure("bracket/violations", "certificates that an attack broke, of those compared", COUNT, is_plain=True)
)
UNDECIDED = register(
    Figure(
        "bracket/undecided_pixels",
        "certified pixels a vote put into another class under attack, within its chance",
        COUNT,
    )
)
CERTIFIED_PIXELS = register(
    Figure("bracket/certified_pixels", "certified pixels compared with an attack", COUNT, is_plain=True)
)
BOUNDS = register(Figure("bracket/bounds", "positive bounds on whole images and on all of them compared", COUNT))
ALERTED = register(
    Figure("bracket/alerted_pixels", "certified pixels that changed with an alert, as the certificate allows", COUNT)
)
SKIPPED = register(
    Figure("bracket/skipped_images", "images not compared, for the attack's patches were larger there", COUNT)
)
COMPARED_OBJECTS = register(
    Figure("bracket/objects", "objects certified to be kept, compared with an attack at each of its radii", COUNT)
)
UNDECIDED_OBJECTS = register(
    Figure("bracket/undecided_objects", "those that a vote lost under attack, within its chance", COUNT)
)
NORMS = register(
    Figure("bracket/norms", "norms found, each compared with the radius certified for its share of pixels", COUNT)
)

# --- validation of trainings -----------------------------------------------------------------------------------------

register(Figure("{word}/pixel_accuracy", "labelled pixels of {word} images with the right class", SHARE, Side.ESTIMATE))
register(Figure("{word}/miou", "mean intersection over union of {word} images", SHARE, Side.ESTIMATE))
register(
    Figure(
        "certified/pixel_accuracy@{number}",
        "labelled pixels that one perturbation of the whole image of norm {number} must leave right",
        SHARE,
        Side.LOWER,
    )
)
register(Figure("certified/cost", "squared feature distance of a correct pixel to another class, on average"))
register(Figure("certified/lipschitz_constant", "the largest Lipschitz constant of an image's size"))
register(Figure("hidden/absolute_error", "mean absolute error of what an inpainter put into hidden pixels"))
