from .cas_scores import CAS as CAS
from .cas_training import ClassifierRecipe as ClassifierRecipe
from .comparison import compare_sets as compare_sets
from .samples import class_counts as class_counts
from .samples import classification_accuracy_score as classification_accuracy_score
from .samples import copy_check as copy_check
from .samples import labelled_samples as labelled_samples
